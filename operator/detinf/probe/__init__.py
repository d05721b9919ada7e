"""The probe: asks the engine beside it, compares bits, proves that its tests had force, and says so.

``observation``, ``comparison``, ``witness``, ``verdict``, ``coverage``, ``hints``, ``again`` and ``references`` are
pure; ``client`` and ``server`` are HTTP; ``lifetime`` is what happens from the start of an engine to its end.
"""
