"""What `medtune check` tells of a dataset's images: copies, those that look alike, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from spaces.config import SearchConfig
from trainables.data.audit import Alike, Copies, Looked, Shapes
from trainables.data.near import DISTANCE
from trainables.data.problems import SHOWN, Problems
from trainables.data.readers import READERS

SHOWN_OF_SET = 5  # images of a set that look alike


def copies_lines(found: Copies) -> list[str]:
    """Byte-identical images of all parts, conflicts first."""
    if not found.images:
        return ["No image of any part stands there twice, byte for byte."]
    lines = [f"{found.images} images are byte-identical copies of {found.contents} different ones."]
    for what, sets in (("differently", found.conflicts), ("alike", found.agreeing)):
        if sets:
            lines.append(f"{len(sets)} of them are labelled {what} in their copies:")
            lines += [f"  {_listed(paths, SHOWN_OF_SET)}" for paths in sets[:SHOWN]]
        if len(sets) > SHOWN:
            lines.append(f"  and {len(sets) - SHOWN} more")
    return lines


def alike_lines(alike: tuple[Alike, ...], config: SearchConfig) -> list[str]:
    """Images of all parts that look alike, and a warning where the split tears them apart."""
    if not alike:
        return [f"No image of any part looks like another one that isn't a copy of it ({DISTANCE})."]
    torn = [one for one in alike if len(one.parts) > 1]
    lines = [
        f"{sum(len(one.images) for one in alike)} images look like another one that isn't a copy of theirs "
        f"({DISTANCE}), in {len(alike)} sets: {sum(one.groups > 1 for one in alike)} of several groups, "
        f"{len(torn)} in several parts of the split, {sum(one.labels_differ for one in alike)} with different "
        "labels. Look at them, since different images may look alike to a hash:",
        *(f"  {_set(one, SHOWN_OF_SET)}" for one in alike[:SHOWN]),
    ]
    if len(alike) > SHOWN:
        lines.append(f"  and {len(alike) - SHOWN} more")
    if torn:
        counts = Counter(part for one in torn for _, part in one.images)
        shown = ", ".join(f"{counts[part]} in {part}" for part in sorted(counts))
        lines.append(
            f"WARNING: the split tears {len(torn)} sets of images that look alike apart ({shown}): what is learned by "
            f"heart in one part counts as recognised in the other, and values are too good. {_remedy(config)}"
        )
    return lines


def _remedy(config: SearchConfig) -> str:
    dataset = config.dataset
    if config.protocol != "own":
        return "The protocol's split is so on purpose; believe a search without it."
    if "near_duplicates" not in READERS[dataset.reader].options.model_fields:
        return "Take all but one of each set that is the same picture out of the tables."
    remedy = "Write dataset.options.near_duplicates: group, which keeps them in one part"
    return f"{remedy}; where that crosses the official parts, also dataset.split.official: false."


def _set(one: Alike, most: int | None = None) -> str:
    listed = _listed([f"{path} ({part})" if part else path for path, part in one.images], most)
    return f"{listed}{'; different labels' if one.labels_differ else ''}"


def _listed(images: Sequence[str], most: int | None = None) -> str:
    more = f" and {len(images) - most} more" if most is not None and len(images) > most else ""
    return ", ".join(images[:most]) + more


def in_full(found: Copies, alike: tuple[Alike, ...], left_out: Sequence[str] = ()) -> list[str]:
    """What is too long to be printed."""
    lines = []
    if len(left_out) > SHOWN:
        lines += ["Images left out, since their copies are labelled differently:", *(f"  {line}" for line in left_out)]
    for what, sets in (("different labels", found.conflicts), ("one label", found.agreeing)):
        if _too_long(sets):
            lines += [f"Copies of one image with {what}:", *(f"  {_listed(paths)}" for paths in sets)]
    if _too_long([one.images for one in alike]):
        lines += [f"Images that look alike ({DISTANCE}), a set a line:", *(f"  {_set(one)}" for one in alike)]
    return lines


def _too_long(sets: Sequence[Sequence[object]]) -> bool:
    return len(sets) > SHOWN or any(len(one) > SHOWN_OF_SET for one in sets)


def left_out_lines(left_out: Sequence[str]) -> list[str]:
    """Images that the reader left out of every part."""
    if not left_out:
        return []
    more = [f"  and {len(left_out) - SHOWN} more"] if len(left_out) > SHOWN else []
    said = f"{len(left_out)} images were left out, since their copies are labelled differently:"
    return [said, *(f"  {line}" for line in left_out[:SHOWN]), *more]


def beside(looked: Looked, left_out: Sequence[str]) -> Problems:
    """What was found of images where something else is wrong already, one sentence each: it is no less worth knowing
    then."""
    found = Problems("dataset")
    for line in left_out:
        found.add("images that were left out", f"dataset: one image, labelled differently and left out: {line}.")
    for paths in looked.copies.conflicts:
        found.add(
            "images that are labelled differently", f"dataset: one image, labelled differently: {_listed(paths)}."
        )
    for one in looked.alike:
        found.add("sets of images that look alike", f"dataset: look alike: {_set(one)}.")
    for paths in looked.copies.agreeing:
        found.add("images with copies", f"dataset: one image, several times: {_listed(paths)}.")
    return found


def shapes_lines(found: Shapes, images: int) -> list[str]:
    """Sizes and modes of the images."""
    which = "" if found.looked_at == images else f" (of {found.looked_at} looked at)"
    lines = []
    for mode, sizes in sorted(found.by_mode.items()):
        [((height, width), most)] = sizes.most_common(1)
        smallest, largest = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
        spread = (
            f"all {height} x {width} pixels (height x width)"
            if len(sizes) == 1
            else f"{len(sizes)} sizes from {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} pixels (height "
            f"x width), {most} of them {height} x {width}"
        )
        lines.append(f"{sum(sizes.values())} {mode} images{which}: {spread}.")
    return lines
