"""The `mot-gen` command: `main` reads the command line, every other module adds one command or a part of one."""
