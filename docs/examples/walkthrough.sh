#!/bin/sh
# The whole life of a mailing over the API, with curl and jq.
#
#   export TOKEN=...                                  # of the scope write
#   export API=http://127.0.0.1:8000/api/v1           # this is the default
#   docs/examples/walkthrough.sh
#
# It creates three clients and a mailing to them, and deletes all of them at the end.
set -eu
: "${API:=http://127.0.0.1:8000/api/v1}" "${TOKEN:?set TOKEN to an API token of the scope write}"

# call METHOD PATH [curl options]: print the answer; on an error print the problem and exit.
call() {
    method=$1 path=$2
    shift 2
    curl -sS --fail-with-body -X "$method" "$API$path" \
        -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" "$@" || {
        echo >&2
        exit 1
    }
}
step() { printf '\n== %s\n' "$*"; }

tag="walkthrough-$$"

step "1. Create three clients"
clients=""
for n in 1 2 3; do
    phone=$(printf '7900%07d' $(($(date +%s) % 1000000 * 10 + n)))
    client=$(call POST /clients \
        -d "{\"phone\": \"$phone\", \"tag\": \"$tag\", \"timezone\": \"Europe/Moscow\"}")
    echo "$client" | jq -c '{id, phone, operator_code, tag, timezone}'
    clients="$clients $(echo "$client" | jq .id)"
done

# Any RFC 3339 instant with an offset is accepted.
start=$(date -u +%Y-%m-%dT%H:%M:%SZ)
end=$(date -u -d '+1 hour' +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -v+1H +%Y-%m-%dT%H:%M:%SZ)
mailing="{\"name\": \"Walkthrough\", \"text\": \"Hello from the walkthrough\",
    \"start_at\": \"$start\", \"end_at\": \"$end\", \"filter\": {\"tags\": [\"$tag\"]}}"

step "2. Preview the mailing: nothing is created"
call POST /mailings/preview -d "$mailing" | jq -c '{audience, text, segments_total, warnings}'

step "3. Create it; the key makes it safe to send the request again"
key="walkthrough-$$-$start"
id=$(call POST /mailings -H "Idempotency-Key: $key" -d "$mailing" | jq .id)
again=$(call POST /mailings -H "Idempotency-Key: $key" -d "$mailing" | jq .id)
echo "mailing $id; sent again, the request answered with mailing $again"

# Print the statistics each second until no message is pending.
wait_until_finished() {
    while :; do
        now=$(call GET "/mailings/$id/statistics")
        echo "$now" | jq -c '{status, audience, counts}'
        [ "$(echo "$now" | jq -r .status)" != finished ] || return 0
        sleep 1
    done
}

step "4. It starts by itself: wait until it is finished"
wait_until_finished

step "5. List the messages, page by page"
cursor=""
while :; do
    page=$(call GET "/mailings/$id/messages?limit=2${cursor:+&cursor=$cursor}")
    echo "$page" | jq -c '.items[] | {id, client_id, status, reason, attempts}'
    cursor=$(echo "$page" | jq -r '.next_cursor // empty')
    [ -n "$cursor" ] || break
done

step "6. One message with its attempts"
message=$(call GET "/mailings/$id/messages?limit=1" | jq '.items[0].id')
call GET "/messages/$message" | jq -c '{id, status, reason, attempt_log}'

step "7. Retry failed messages"
failed=$(call GET "/mailings/$id/statistics" | jq .counts.failed)
if [ "$failed" -gt 0 ]; then
    call POST "/mailings/$id/retry-failed" | jq -c '{id, status}'
    wait_until_finished
else
    echo "nothing has failed"
fi

step "8. Delete the mailing and the clients"
call DELETE "/mailings/$id"
for client in $clients; do
    call DELETE "/clients/$client"
done
echo "done"
