"""A stand-in for QuickVina2-GPU 2.1: its command line, its files and its output, with energies that count atoms.

After main.cpp of https://github.com/DeltaGroupNJUPT/Vina-GPU-2.1. A ligand with iodine aborts the program, and one
with bromine makes it hang.
"""

import argparse
import os
import sys
import time
from pathlib import Path

AUTODOCK_TYPES = {"C", "A", "N", "NA", "O", "OA", "S", "SA", "HD", "H", "F", "Cl", "Br", "I", "P"}
OPTIONS = {
    str: "receptor flex ligand ligand_directory output_directory opencl_binary_path out log config",
    int: "thread search_depth rilc_bfgs seed num_modes",
    float: "center_x center_y center_z size_x size_y size_z energy_range weight_gauss1 weight_gauss2 "
    "weight_repulsion weight_hydrophobic weight_hydrogen weight_rot",
}
SEARCH_SPACE = ("center_x", "center_y", "center_z", "size_x", "size_y", "size_z")


def dock(ligand, out):
    types = [line[77:].strip() for line in ligand.read_text().splitlines() if line.startswith("ATOM")]
    unknown = [atom_type for atom_type in types if atom_type not in AUTODOCK_TYPES]
    if unknown:
        print(f'Parse error in file "{ligand}": {unknown[0]} is not a valid AutoDock type', file=sys.stderr)
        return False
    if "I" in types:
        os.abort()
    if "Br" in types:
        time.sleep(1000)
    energies = [-0.5 * len(types), -0.25 * len(types)]
    models = [
        f"MODEL {i}\nREMARK VINA RESULT:    {energy:6.1f}      0.000      0.000\nENDMDL\n"
        for i, energy in enumerate(energies, start=1)
    ]
    out.write_text("".join(models))
    return True


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for kind, names in OPTIONS.items():
        for name in names.split():
            parser.add_argument(f"--{name}", type=kind)
    options = parser.parse_args()
    missing = [name for name in ("receptor", "thread", *SEARCH_SPACE) if getattr(options, name) is None]
    if missing:
        sys.exit(f"Required parameter --{missing[0]} is missing!")
    if options.thread < 1000:
        sys.exit("Usage error: thread must be at least 1000.")
    if (options.ligand is None) == (options.ligand_directory is None):
        sys.exit("Missing ligand, or both ligand and ligand_directory")
    Path(options.receptor).read_text()
    for kernel in ("Kernel1_Opt.bin", "Kernel2_Opt.bin"):
        Path(options.opencl_binary_path or ".", kernel).read_bytes()
    if options.ligand:
        pairs = [(Path(options.ligand), Path(options.out))]
    else:
        folder = Path(options.output_directory or options.ligand_directory + "_out")
        folder.mkdir(exist_ok=True)
        ligands = sorted(Path(options.ligand_directory).iterdir())
        pairs = [(ligand, folder / f"{ligand.name.partition('.pdbqt')[0]}_out.pdbqt") for ligand in ligands]
    if not [pair for pair in pairs if dock(*pair)]:
        sys.exit("No valid ligands in the input directory")
    print("QuickVina 2-GPU3 total runtime = 0.1 s")


if __name__ == "__main__":
    main()
