"""What an image classifier ignores, in words and pictures: the helpers of the SING book."""

from .errors import SingError
from .heads import Classifier, load_classifier, wrap_classifier
from .joint import load_joint_space
from .metrics import angle, attribute_score, image_score
from .nullspace import HeadSpaces
from .perturb import steer
from .study import Study
from .translator import RidgeFitter, Translator

__all__ = [
    "Classifier",
    "HeadSpaces",
    "RidgeFitter",
    "SingError",
    "Study",
    "Translator",
    "angle",
    "attribute_score",
    "image_score",
    "load_classifier",
    "load_joint_space",
    "steer",
    "wrap_classifier",
]
