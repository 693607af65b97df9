"""Symmetry operations as groups; what CIFs make of them is in test_cif.py."""

import pytest
from pymatgen.symmetry.maggroups import MagneticSpaceGroup

from materials.sources.files.space_groups import check_group
from materials.sources.files.usable import StructureTrouble


@pytest.mark.parametrize("bns", [(1, 3), (15, 90), (62, 448), (136, 499), (166, 101), (225, 121)])
def test_pymatgens_magnetic_groups_are_whole_and_none_is_without_an_operation(bns: tuple[int, int]) -> None:
    operations = [op.as_xyzt_str().replace(" ", "") for op in MagneticSpaceGroup(list(bns)).symmetry_ops]
    check_group(tuple(operations))
    turned = [operation for operation in operations if not operation.startswith("x,y,z,")]
    if len(turned) > 1:
        with pytest.raises(StructureTrouble, match="not a whole group"):
            check_group(tuple(operation for operation in operations if operation != turned[0]))
