"""Where matgl finds the class that saved model files name: `models.potentials.matgl_chgnet`."""

from models.potentials.matgl.chgnet_weights import PackageChgnet as PackageChgnet
