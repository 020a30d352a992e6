#!/bin/sh
# Prints the ACL file of Redis that `users.acl` describes: docker/users.sh [PREFIX [DATABASE]] >users.acl
#
# PREFIX is TASKS_KEY_PREFIX (ts), DATABASE the number in the Redis URL (0). The passwords come from the variables
# REDIS_PASSWORD_WEB, _WORKER, _BEAT, _FLOWER and _OPERATOR; only their hashes are printed. `redis-server --aclfile`
# reads the file at start, ACL LOAD reads it again. Run it where that Redis is: the file fits its version.
set -euf
prefix=${1:-ts}
database=${2:-0}

hash_of() { # a role; fails if it has no password
  eval "password=\${REDIS_PASSWORD_$1:?set it to a long random string}"
  printf %s "$password" | sha256sum | cut -d ' ' -f 1
}

expressions="-e s/PREFIX/$prefix/g -e s/DATABASE/$database/g"
for role in WEB WORKER BEAT FLOWER OPERATOR; do
  hash=$(hash_of "$role")
  expressions="$expressions -e s/#$role/#$hash/"
done
# A connection begins in database 0; whoever may say SELECT reaches what others keep in theirs.
case $database in
  0) expressions="$expressions -e s/SELECT//" ;;
  *) expressions="$expressions -e s/SELECT/+select|$database/" ;;
esac
# CLIENT SETINFO came with 7.2: an older Redis refuses a file that names it, and nobody needs it there.
case $(redis-server --version 2>/dev/null || true) in
  *v=7.[01].*) expressions="$expressions -e s/+client|setinfo//" ;;
esac
# Without -r, `read` joins lines that end in a backslash.
# shellcheck disable=SC2162,SC2086
grep -v '^#' "$(dirname "$0")/users.acl" | while read line; do [ -z "$line" ] || echo $line; done | sed $expressions
