"""What families of published models share: conversion, tables of names, towers, the files of a folder, tiny models."""
