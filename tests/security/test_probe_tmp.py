import threading, time, json
import requests
from tests.security.test_expensive_requests import _many_clients, measure_health
from tests.integration.conftest import TOKEN, mailing_body
N=40
PATHS = """
/api/v1/clients?search=900
/api/v1/clients?search=Client
/api/v1/clients?search=c
/api/v1/clients?search=c+l+i+e+n+t+1
/api/v1/clients?search=000+111
/api/v1/clients?limit=500
/api/v1/mailings?search=offer
/api/v1/mailings?limit=500
/api/v1/statistics
/api/v1/statistics/days
/api/v1/opt-outs?limit=500
/api/v1/audit?limit=500
/api/v1/imports?limit=500
/metrics
/apidoc/openapi.json
/api/v1/policy/budget
""".split()
HEAD={"Authorization": f"Bearer {TOKEN}"}
def storm(server, send, n=N):
    answers=[]
    def one(k):
        t=time.monotonic()
        try:
            r=send(k); answers.append((r.status_code, time.monotonic()-t))
        except Exception as e: answers.append((type(e).__name__, time.monotonic()-t))
    ts=[threading.Thread(target=one,args=(k,)) for k in range(n)]
    for t in ts: t.start()
    longest=measure_health(server, answers, n)
    for t in ts: t.join()
    from collections import Counter
    return longest, max(a[1] for a in answers), Counter(a[0] for a in answers)
def test_probe(server, database):
    out=open("/tmp/scratch-ops2/storm.txt","w")
    database.execute("INSERT INTO mailings (text,start_at,end_at,timezone) SELECT 'offer '||n, now()+n*interval '1 hour', now()+(n+2)*interval '1 hour', 'UTC' FROM generate_series(1,1) n" ) if False else None
    for n in range(60):
        assert requests.post(f"{server.url}/api/v1/mailings", json=mailing_body()|{"text":f"offer {n}"}, headers=HEAD).status_code==201
    for p in PATHS:
        l,m,c=storm(server, lambda k: requests.get(server.url+p, headers=HEAD, timeout=120))
        print(f"{p:45} healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    csv="phone,timezone,name\n"+"".join(f"7{9100000000+i},Europe/Moscow,n{i}\n" for i in range(150000))
    print("csv", len(csv), file=out)
    for path in ("/api/v1/clients/import/check","/api/v1/clients/import"):
        l,m,c=storm(server, lambda k: requests.post(server.url+path, data=csv.encode(), headers=HEAD|{"Content-Type":"text/csv"}, timeout=300), 12)
        print(f"{path:45} healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    oo="phone\n"+"".join(f"7{9100000000+i}\n" for i in range(300000))
    l,m,c=storm(server, lambda k: requests.post(server.url+"/api/v1/opt-outs/import", data=oo.encode(), headers=HEAD|{"Content-Type":"text/csv"}, timeout=300), 12)
    print(f"opt-outs/import healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    body=mailing_body()|{"filter":{"phones":[f"7{9100000000+i}" for i in range(50000)]}}
    print(len(json.dumps(body)), file=out)
    l,m,c=storm(server, lambda k: requests.post(server.url+"/api/v1/mailings", json=body, headers=HEAD, timeout=300), 40)
    print(f"mailings with phones healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    big={"text":"x","a":[[]]*150000}
    l,m,c=storm(server, lambda k: requests.post(server.url+"/api/v1/mailings", json=big, headers=HEAD, timeout=300), 40)
    print(f"junk body healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    deep="["*400000
    l,m,c=storm(server, lambda k: requests.post(server.url+"/api/v1/mailings", data=deep, headers=HEAD|{"Content-Type":"application/json"}, timeout=300), 40)
    print(f"deep body healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
    txt=mailing_body()|{"text":"{a}"*300}
    l,m,c=storm(server, lambda k: requests.post(server.url+"/api/v1/mailings/preview", json=txt, headers=HEAD, timeout=300), 40)
    print(f"preview placeholders healthz {l:.2f} slowest {m:.2f} {dict(c)}", file=out, flush=True)
