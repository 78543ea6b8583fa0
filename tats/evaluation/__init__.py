"""Measuring videos: features, distances between sets of clips, and scores of single clips."""

from tats.evaluation.distances import frechet_distance, polynomial_mmd
from tats.evaluation.features import I3DFeatures
from tats.evaluation.i3d import I3D, load_i3d

__all__ = ["I3D", "I3DFeatures", "frechet_distance", "load_i3d", "polynomial_mmd"]
