# Sourced: how the MPI called $name starts processes here: "$launcher" -n N "${options[@]}" PROGRAM. Exits 77 where it does not.
launcher=$(command -v "mpirun.$name" || command -v mpirun) || { echo "skipped: no mpirun for $name"; exit 77; }
options=()
[ "$name" != openmpi ] || options=(--oversubscribe)
[ "$name" != openmpi ] || [ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
bad=0
wrong() { echo "error: $*" >&2; bad=1; }
