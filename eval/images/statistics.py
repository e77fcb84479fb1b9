"""ReferenceStatistics: the moments of a reference set as a file, with what they were computed by and a fingerprint.

An .npz file with n, mean, m2 (float64) and a JSON header. The fingerprint is the sha256 of all of it; a file that was
changed, or whose extractor, weights, resize mode or dtype differ from those in use, is refused.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mot_gen.errors import InputError
from mot_gen.eval.images.moments import Moments

UNSAID = {"pictures": "upright, on white"}  # defaults that a provenance leaves out, as messages call them


@dataclass(frozen=True)
class ReferenceStatistics:
    """Statistics of real images, which stand in for them.

    moments: of the reference features. provenance: as `Extractor.provenance`, and whatever else names the set.
    """

    moments: Moments
    provenance: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """sha256 over the provenance and the moments, in hex."""
        digest = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        digest.update(str(self.moments.n).encode())
        for array in (self.moments.mean, self.moments.m2):
            digest.update(np.ascontiguousarray(array.double().cpu().numpy()).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path):
        """Write them as an .npz file, which `load` reads, and the `reference` of metrics."""
        header = json.dumps({**self.provenance, "fingerprint": self.fingerprint})
        n, mean, m2 = self.moments
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:  # np.savez appends .npz to a name that lacks it
            np.savez(file, header=header, n=n, mean=mean.cpu().numpy(), m2=m2.cpu().numpy())

    @staticmethod
    def load(path: str | Path) -> ReferenceStatistics:
        """InputError for a file that is missing, not ours, or not what its fingerprint says."""
        try:
            with np.load(path, allow_pickle=False) as data:
                header = json.loads(str(data["header"]))
                moments = Moments(int(data["n"]), torch.from_numpy(data["mean"]), torch.from_numpy(data["m2"]))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as err:
            raise InputError(
                f"{path}: not reference statistics ({err}); make them with: mot-gen eval stats DIR -o FILE"
            ) from err
        recorded = header.pop("fingerprint", None)
        found = ReferenceStatistics(moments, header)
        if recorded != found.fingerprint:
            raise InputError(f"{path}: fingerprint {str(recorded)[:12]} does not match the content; make it again")
        return found

    def require(self, provenance: dict[str, Any], path: str | Path):
        """InputError where any of the given facts differs from the file's."""
        for key, wanted in provenance.items():
            found, unsaid = self.provenance.get(key), UNSAID.get(key)
            if found != wanted:
                raise InputError(
                    f"{path}: computed with {key} {found or unsaid!r}, but {wanted or unsaid!r} is in use; "
                    "use the same, or make it again"
                )
