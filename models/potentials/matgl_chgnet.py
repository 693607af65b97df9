"""Module path `models.potentials.matgl_chgnet` that saved matgl files name."""

from models.potentials.matgl.chgnet_weights import PackageChgnet as PackageChgnet
