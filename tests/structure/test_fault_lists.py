"""The kept faults can still be planted: each symbol and its code are in the source."""

from collections import Counter
from pathlib import Path

from tests.instruments.faults import MisfitError, plant, read_faults, source_path

SOURCE = Path(__file__).parents[2] / "src" / "tinyllama"


def test_each_fault_fits_the_source_and_has_a_name_of_its_own():
    faults, misfits = read_faults(), []
    for fault in faults:
        try:
            text = source_path(SOURCE, fault.module, fault.symbol).read_text()
            assert plant(text, fault) != text, fault.name
        except MisfitError as misfit:
            misfits.append(f"{fault.name}: {misfit}")
    assert not misfits, "\n".join(misfits)
    assert max(Counter(fault.name for fault in faults).values()) == 1
