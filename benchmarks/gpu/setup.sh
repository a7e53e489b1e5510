# Makes keras_sd importable on a machine without a network. In the root of the repository:
#
#     . benchmarks/gpu/setup.sh || exit
#
# It installs the wheels in .whl (README.md beside it says which, and how they got there) into
# $KERAS_SD_SITE, /tmp/keras_sd_site where that is not set, and nothing into the machine's own
# Python. keras_sd and its samplers run from this folder; their entry points are written beside
# the wheels. KERAS_BACKEND is left to whoever sources this.

_site=${KERAS_SD_SITE:-/tmp/keras_sd_site}
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --root-user-action=ignore \
    --upgrade --target "$_site" .whl/*.whl || return 1
python3 benchmarks/gpu/metadata.py "$_site" || return 1
export PYTHONPATH="$_site:$PWD:$PWD/samplers"
export KERAS_HOME="$_site/.keras" TF_CPP_MIN_LOG_LEVEL=3
# torch and JAX are measured in turn on one card: neither may take all of its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
