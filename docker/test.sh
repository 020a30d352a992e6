#!/usr/bin/env bash
# The deployment, tried as an operator would: build the image, bring the stack up, call tools from outside,
# scale the workers to two, see both of them work, take everything down. Exit status 0 if all of it worked.
#
# Needs a Docker engine, docker compose (2, or docker-compose 1.29), and `tasks-service` from `make setup`.
# DOCKER_BUILD_OPTIONS goes to `docker build`; the default lets the build use the host's network, so that it
# reaches whatever package index the host reaches. PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST
# are passed on if they are set.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\nFAILED: %s\n' "$*" >&2; exit 1; }

docker info >/dev/null 2>&1 || fail "there is no Docker engine that answers; start one, and see \`docker info\`."
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  fail "neither \`docker compose\` nor \`docker-compose\` is installed."
fi
PATH=$PWD/.venv/bin:$PATH
command -v tasks-service >/dev/null || fail "tasks-service is not installed; run \`make setup\` first."

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
random_text() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

work=$(mktemp -d)
key=$(random_text)
port=$(free_port)
export TASKS_IMAGE=tasks-service:test-$$
export TASKS_WORKER_IMAGE=tasks-service-worker:test-$$
export TASKS_API_KEYS="tester:$key"
TASKS_SECRET=$(random_text)
export TASKS_SECRET
TASKS_MESSAGE_SECRET=$(random_text)
export TASKS_MESSAGE_SECRET
for role in WEB WORKER BEAT FLOWER OPERATOR; do export "REDIS_PASSWORD_$role=$(random_text)"; done
export TASKS_FILES=$work/files
export TASKS_PUBLISH=127.0.0.1:$port
FLOWER_PUBLISH=127.0.0.1:$(free_port)
export FLOWER_PUBLISH
export TASKS_CONCURRENCY=2
export COMPOSE_PROJECT_NAME=tasks-service-test-$$
stack=("${compose[@]}" --file docker/compose.yaml)

clean_up() {
  status=$?
  trap - EXIT
  if [ "$status" -ne 0 ]; then
    say "The logs of the stack"
    "${stack[@]}" ps || true
    "${stack[@]}" logs --tail=60 || true
  fi
  say "Taking the stack down"
  "${stack[@]}" down --volumes --timeout 20 >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
  docker image rm "$TASKS_IMAGE" "$TASKS_WORKER_IMAGE" >/dev/null 2>&1 || true
  rm -rf "$work"
  if [ "$status" -eq 0 ]; then
    printf '\nPASSED in %d s: %s\n' "$SECONDS" "$summary"
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

wait_for() { # what, seconds, command...
  local what=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what: not within the time allowed"
    sleep 0.5
  done
  echo "$what"
}

call() { # tool, options of \`tasks-service call\`...
  tasks-service call --url "http://127.0.0.1:$port/mcp" --key "$key" "$@"
}

is_ready() { python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/readyz', timeout=3)"; }
flower_shows() { # a number of workers
  local up
  up=$(python3 -c "import urllib.request as u; print(u.urlopen('http://$FLOWER_PUBLISH/metrics', timeout=3).read().decode())" |
    grep -c '^flower_worker_online{.*} 1')
  [ "$up" -eq "$1" ]
}
has_workers() { # a number
  [ "$("${stack[@]}" exec -T worker tasks-service workers --json 2>/dev/null | grep -o '"worker"' | wc -l)" -ge "$1" ]
}
operator() { "${stack[@]}" run --rm -T operator "$@"; }
shares_of() { # tool: how many of its tasks each worker ran, from the history that is stored with each task
  operator list --json --tool "$1" | python3 -c 'import json, sys; print(*(t["task_id"] for t in json.load(sys.stdin)), sep="\n")' |
    while read -r task; do operator inspect --json "$task" </dev/null; done |
    python3 -c '
import collections, json, sys
decoder, text, actors = json.JSONDecoder(), sys.stdin.read().strip(), collections.Counter()
while text:
    record, end = decoder.raw_decode(text)
    actors.update(entry["actor"].partition("/")[0] for entry in record["log"] if entry["target"] == "running")
    text = text[end:].lstrip()
for actor, count in sorted(actors.items()):
    print(count, actor)'
}

mkdir -p "$TASKS_FILES/years"
for year in 2021 2022 2023; do
  awk -v year=$year 'BEGIN { print "id,year,amount"; for (i = 1; i <= 20000; i++) print i "," year "," i % 97 / 4 }' \
    >"$TASKS_FILES/years/$year.csv"
done
chmod -R a+rX "$work"

say "Refusing to start without keys"
if (unset TASKS_API_KEYS; "${stack[@]}" config) >"$work/refusal.log" 2>&1; then
  fail "the stack would start without TASKS_API_KEYS"
fi
grep -i 'TASKS_API_KEYS' "$work/refusal.log"

say "Building the images"
arguments=()
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
  [ -z "${!name:-}" ] || arguments+=(--build-arg "$name")
done
read -ra options <<<"${DOCKER_BUILD_OPTIONS---network host}"
sizes=()
for image in "Dockerfile $TASKS_IMAGE" "worker.Dockerfile $TASKS_WORKER_IMAGE"; do
  read -r file tag <<<"$image"
  docker build "${options[@]}" "${arguments[@]}" --quiet --file "docker/$file" --tag "$tag" .
  sizes+=($(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)))
  user=$(docker run --rm "$tag" id -un)
  [ "$user" = tasks ] || fail "the image $tag runs as $user"
  echo "$tag: ${sizes[-1]} MB, runs as $user"
done
if docker run --rm "$TASKS_IMAGE" python -c 'import workers' 2>/dev/null; then fail "the front end has the workers' code"; fi
if docker run --rm "$TASKS_WORKER_IMAGE" python -c 'import mcp' 2>/dev/null; then fail "the workers have the MCP SDK"; fi
echo "the front end has none of the workers' code, and the workers have none of the MCP SDK"

say "Bringing the stack up"
"${stack[@]}" up --detach --no-build 2>&1 | tail -8
wait_for "The front end is ready" 90 is_ready
wait_for "A worker answers" 60 has_workers 1
wait_for "The front end offers the workers' tools" 30 call checksum_tree --arg path=years
operator doctor

say "Calling tools from outside"
call checksum_tree --arg path=years >"$work/tree.json"
expected=$(cd "$TASKS_FILES/years" && sha256sum ./*.csv | sed 's|\./||' | sha256sum | cut -d' ' -f1)
grep -q "$expected" "$work/tree.json" || fail "checksum_tree found another digest than sha256sum: $(cat "$work/tree.json")"
echo "checksum_tree: $expected, as sha256sum says"
call profile_csv --arg path=years/2022.csv >"$work/profile.json"
grep -q '"rows": *20000' "$work/profile.json" || fail "profile_csv: $(head -c 2000 "$work/profile.json")"
echo "profile_csv: 20000 rows"
if call checksum_tree --arg path=../etc >"$work/outside.txt" 2>&1; then fail "a path outside the root was read"; fi
grep -i outside "$work/outside.txt"
if tasks-service call --url "http://127.0.0.1:$port/mcp" --key "wrong-$key" checksum_tree >"$work/key.txt" 2>&1; then
  fail "a wrong key was accepted"
fi
tail -1 "$work/key.txt"

say "Scaling to two workers"
"${stack[@]}" up --detach --no-build --no-recreate --scale worker=2 worker 2>&1 | tail -3
wait_for "Two workers answer" 60 has_workers 2
wait_for "Flower shows two workers" 60 flower_shows 2

say "Eight pictures at once"
calls=()
for number in 1 2 3 4 5 6 7 8; do
  call render_fractal --arg width=240 --arg height=180 --output "$work/$number.png" >"$work/$number.log" 2>&1 &
  calls+=($!)
done
for number in 1 2 3 4 5 6 7 8; do
  wait "${calls[$number - 1]}" || fail "call $number: $(cat "$work/$number.log")"
  [ "$(head -c 4 "$work/$number.png" | tail -c 3)" = PNG ] || fail "call $number gave no PNG"
done
shares_of render_fractal | tee "$work/shares"
[ "$(wc -l <"$work/shares")" -eq 2 ] || fail "two workers run, but not both of them took one of eight calls"
shares=$(cut -d' ' -f1 "$work/shares" | paste -sd+)

summary="images of ${sizes[0]} MB (front end) and ${sizes[1]} MB (workers), tools called from outside, two workers shared eight calls ($shares)"
