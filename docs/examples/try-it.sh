export TOKEN=demo-bootstrap-token API=http://127.0.0.1:8000/api/v1
auth() { printf 'header = "Authorization: Bearer %s"\n' "$TOKEN"; }
call() { auth | curl -sS -K - -H "Content-Type: application/json" "$@"; echo; }
at() { python3 -c "import time; print(time.strftime('%FT%TZ', time.gmtime(time.time() + $1)))"; }

call $API/clients -d '{"phone": "79161234567", "tag": "vip", "timezone": "Europe/Moscow"}'
call $API/mailings -d '{"name": "First", "text": "Hello", "filter": {"tags": ["vip"]},
  "start_at": "'$(at 0)'", "end_at": "'$(at 3600)'"}'
sleep 2
call $API/statistics
