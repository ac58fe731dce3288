#!/usr/bin/env bash
# Half an hour of a GPU, made the most of: tests, tables of speed, then training from the last checkpoint until the
# time is up, and registrations on the device.
#
#     Testing/studies/gpu_session.sh --out DIR [--checkpoints DIR] [--seconds N] [--parts MB] [--device cuda]
#     Testing/studies/gpu_session.sh --out DIR --dry-run        (the same on the CPU, all of it tiny)
#
# Every step takes less than nine minutes and leaves DIR/NAME.log and, when it ended well, DIR/NAME.done: called
# again, the script goes on with the first step that is not done, so that a session may be cut into pieces of
# ten minutes. The two trainings share what is left of --seconds (1500 from the first call); they begin with the
# checkpoints of --checkpoints (folders rtpi and ifr, as `sopi train --out` leaves them) and go on each time.
# --parts leaves files larger than so many MB in numbered parts, DIR/NAME.000 and on, for transfers with a
# limit; `cat NAME.* > NAME` joins them.
set -u

out= checkpoints= device=cuda seconds=1500 parts= dry=
while [ $# -gt 0 ]; do
    case "$1" in
        --out) out=$2; shift 2 ;;
        --checkpoints) checkpoints=$2; shift 2 ;;
        --seconds) seconds=$2; shift 2 ;;
        --parts) parts=$2; shift 2 ;;
        --device) device=$2; shift 2 ;;
        --dry-run) dry=yes; device=cpu; shift ;;
        *) echo "gpu_session.sh: unknown option '$1': see the head of this file" >&2; exit 2 ;;
    esac
done
if [ -z "$out" ]; then
    echo "gpu_session.sh: no folder for the results: give --out DIR" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
[ -n "$checkpoints" ] && checkpoints=$(cd "$checkpoints" && pwd)
cd "$root" || exit 2
export PYTHONPATH="$root/SOPIRegistration${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python}
limit=530
[ -f "$out/began" ] || date +%s > "$out/began"

left() { echo $(($(cat "$out/began") + seconds - $(date +%s))); }

# step NAME COMMAND...: once, stopped in time; what it prints stays.
step() {
    local name=$1
    shift
    if [ -e "$out/$name.done" ]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name"
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    local status=$?
    tail -n 5 "$out/$name.log"
    if [ $status -eq 0 ]; then
        touch "$out/$name.done"
    else
        echo "== $name ended with $status: see $name.log"
        failed="$failed $name"
    fi
}

# train NAME SECONDS OPTIONS...: from the checkpoint, for so long; not once for all, but at every call.
train() {
    local name=$1 span=$2
    shift 2
    if [ ! -e "$out/$name/last.pt" ] && [ -e "$checkpoints/$name/last.pt" ]; then
        mkdir -p "$out/$name"
        cp "$checkpoints/$name/"{last.pt,best.pt,log.csv} "$out/$name/"
    fi
    [ "$span" -gt "$limit" ] && span=$limit
    rm -f "$out/train-$name.done"
    # A minute for its patients and the last validation.
    step "train-$name" "$python" -m SOPIRegistrationLib train "$name" --out "$out/$name" --device "$device" \
        --time-limit $((span > 120 ? span - 60 : span)) "$@"
}

failed=
if [ -n "$dry" ]; then
    projectors=(--pixels 12 16 --voxels 16 --poses 2 --seconds 0.01)
    training=(--patients 2 --group 1 --seconds 0.01)
    rtpi=(--steps 2 --patients 1 --group 1 --pool 1 --phantoms 1 --validate-every 2 --validation-patients 1)
    ifr=("${rtpi[@]}" --structures 1)
    spans=(60 60)
else
    projectors=() training=()
    rtpi=(--steps 200000 --patients 16 --group 8 --pool 192 --phantoms 200 --validate-every 2000)
    ifr=(--steps 100000 --patients 16 --group 4 --pool 192 --phantoms 200 --validate-every 1000)
fi

# Without the options for several processes: their package need not be there.
step tests "$python" -m pytest -q -p no:cacheprovider -o "addopts=-m 'not slow'" Testing/unit/test_projector_cuda.py Testing/unit/test_simulation_xray_batch.py
step projectors "$python" Testing/studies/benchmark_device.py projectors --device "$device" --out "$out" "${projectors[@]}"
step training "$python" Testing/studies/benchmark_device.py training --device "$device" --out "$out" "${training[@]}"
# Two thirds of what is left, less a minute for the registrations, for RTPI.
[ -n "$dry" ] || spans=($((($(left) - 60) * 2 / 3)) $((($(left) - 60) / 3)))
if [ "${spans[1]}" -gt 0 ]; then
    train rtpi "${spans[0]}" "${rtpi[@]}"
    train ifr "${spans[1]}" "${ifr[@]}"
fi
# Registering on a GPU is said of the panel and the command line where they offer it.
if "$python" -m SOPIRegistrationLib register --help | grep -q -- "--device.*$device"; then
    step demo "$python" -m SOPIRegistrationLib demo --out "$out/demo"
    step register "$python" -m SOPIRegistrationLib register "$out/demo/ct.nrrd" "$out/demo/xray.png" \
        --geometry "$out/demo/geometry.json" --device "$device" --out "$out/register"
else
    echo "== register: not offered on $device"
fi

if [ -n "$parts" ]; then
    find "$out" -type f -size +"$parts"M ! -name '*.[0-9][0-9][0-9]' | while read -r file; do
        split -d -a 3 -b "${parts}M" "$file" "$file." && rm "$file"
    done
fi
[ -z "$failed" ] || { echo "not done:$failed"; exit 1; }
