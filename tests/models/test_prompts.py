"""Names of ImageNet's classes, which lie in a file of ours, against the libraries they are from."""

from __future__ import annotations

import open_clip
import pytest
from timm.data import ImageNetInfo

from sing_nb.errors import SingError
from sing_nb.models.prompts import class_aliases, complete_prompt, imagenet_names


def test_the_file_holds_open_clips_names_and_wordnets_synonyms():
    info, aliases = ImageNetInfo("imagenet-1k"), class_aliases()
    assert imagenet_names() == open_clip.IMAGENET_CLASSNAMES
    for index, name in enumerate(imagenet_names()):
        assert index in aliases[name.lower()]
        for synonym in info.index_to_description(index).split(", "):
            assert index in aliases[synonym.lower()]
    assert len(aliases["crane"]) == 2


def test_a_prompt_is_made_of_what_was_typed():
    for typed, meant in {
        "jellyfish": "an image of a jellyfish", "elk": "an image of an elk",
        "two  dogs": "an image of two dogs", "a sketch of a camel": "a sketch of a camel",
    }.items():
        assert complete_prompt(typed) == meant
    with pytest.raises(SingError, match="needs a word"):
        complete_prompt(" ?")
