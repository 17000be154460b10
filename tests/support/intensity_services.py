"""A real HTTP server on 127.0.0.1 that speaks as the live services do, faults included."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "s3cr3t-t0k3n"
ACCOUNT = "freddo:" + TOKEN
NOW = datetime(2026, 8, 1, 12, 10, tzinfo=timezone.utc)


def iso(when, ending="Z"):
    return f"{when:%Y-%m-%dT%H:%M}{ending}"


class IntensityServices:
    """All services at once, under a path of their own; `fault` names what goes wrong next.

    `figure` is what they answer for the present, `asked` counts requests by path, and `seen` keeps
    the headers of each.
    """

    def __init__(self):
        self.fault = None
        self.figure = 142.0
        self.now = NOW
        self.asked = Counter()
        self.seen = []
        self.hold = threading.Event()
        self.bearers = 0
        services = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with suppress(OSError):  # a client that has given up
                    services.answer(self)

            def log_message(self, *_args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request):
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.asked[parts.path] += 1
        self.seen.append(dict(request.headers))
        fault = FAULTS.get(self.fault)
        if self.fault == "slow":
            self.hold.wait(60.0)
        status, body, headers = fault or self._by_path(parts.path, query, request.headers)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(text)

    def _by_path(self, path, query, headers):
        service, _, rest = path.strip("/").partition("/")
        found = getattr(self, f"_{service}")(rest, query, headers)
        return found if isinstance(found, tuple) else (200, found, {})

    def _gb(self, rest, query, headers):
        _, since, span = rest.split("/")
        if span != "fw48h" or not since.endswith("Z"):
            return 400, {"error": {"code": "400 Bad Request", "message": "a valid date"}}, {}
        first = self.now.replace(minute=0)
        entries = []
        for n in range(-1, 8):
            begin = first + timedelta(minutes=30 * n)
            figures = {"forecast": self.figure + n, "actual": None, "index": "moderate"}
            if n < 0:
                figures["actual"] = self.figure - 3
            end = begin + timedelta(minutes=30)
            entries.append({"from": iso(begin), "to": iso(end), "intensity": figures})
        return {"data": entries}

    def _em(self, rest, query, headers):
        if headers.get("auth-token") != TOKEN:
            return 401, {"error": f"Invalid auth-token {headers.get('auth-token')}"}, {}
        if query.get("zone") == "XX":
            return 400, {"error": "Zone 'XX' does not exist."}, {}
        hour = self.now.replace(minute=0)
        entry = {
            "zone": query["zone"],
            "carbonIntensity": self.figure,
            "datetime": f"{iso(hour, '')}:00.000Z",
            "isEstimated": True,
            "emissionFactorType": query["emissionFactorType"],
            "temporalGranularity": "hourly",
        }
        if rest.endswith("latest"):
            return entry
        hours = [
            {"carbonIntensity": self.figure - n, "datetime": iso(hour + timedelta(hours=n))}
            for n in range(5)
        ]
        return {"zone": query["zone"], "forecast": hours, "temporalGranularity": "hourly"}

    def _wt(self, rest, query, headers):
        if rest == "login":
            wanted = base64.b64encode(ACCOUNT.encode()).decode()
            if headers.get("Authorization") != f"Basic {wanted}":
                return 403, {"error": "Invalid login"}, {}
            self.bearers += 1
            return {"token": f"bearer-{self.bearers}"}
        if headers.get("Authorization") != f"Bearer bearer-{self.bearers}":
            return 401, {"error": "token expired"}, {}
        if rest.endswith("region-from-loc"):
            return {"region": "CAISO_NORTH", "signal_type": "co2_moer"}
        points = [
            {"point_time": iso(self.now + timedelta(minutes=5 * n), ":00+00:00"), "value": 870.4}
            for n in range(-1, 12)
        ]
        meta = {"data_point_period_seconds": 300, "units": "lbs_co2_per_mwh"}
        return {"data": points, "meta": {**meta, "region": query["region"]}}

    def _ec(self, rest, query, headers):
        if query.get("country") != "de":
            return 404, {"detail": "country not found"}, {}
        first = int(self.now.timestamp()) - 600
        return {
            "unix_seconds": [first, first + 900, first + 1800],
            "co2eq": [self.figure, None, None],
            "co2eq_forecast": [None, 227.0, 224.6],
            "deprecated": False,
        }

    def _eia(self, rest, query, headers):
        if query.get("api_key") != TOKEN:
            return 403, {"error": {"code": "API_KEY_MISSING", "message": "No api_key"}}, {}
        data = [
            {"period": f"{self.now:%Y-%m-%dT%H}", "fueltype": fuel, "value": value}
            for fuel, value in (("NG", "600"), ("SUN", "300"), ("NUC", "100"), ("BAT", "-50"))
        ]
        data.append({"period": "2026-08-01T11", "fueltype": "NG", "value": None})
        data.append({"period": "2026-08-01T10", "fueltype": "OTH", "value": "900"})
        return {"response": {"total": str(len(data)), "data": data}}


FAULTS = {
    "401": (401, {"error": f"Invalid auth-token {TOKEN}"}, {}),
    "403": (403, {"message": "Forbidden"}, {}),
    "404": (404, {"error": 'No recent data for zone "XX"'}, {}),
    "429": (429, {"message": "Too Many Requests"}, {"Retry-After": "700"}),
    "500": (500, {"error": {"code": "500", "message": "oops"}}, {}),
    "no json": (200, b"<html>maintenance</html>", {}),
    "empty": (200, b"", {}),
    "wrong shape": (200, {"data": {"data": 5}, "forecast": None, "unix_seconds": "x"}, {}),
    "a list": (200, [1, 2, 3], {}),
    "redirect": (302, {}, {"Location": "http://127.0.0.1:9/elsewhere"}),
    "cut off": (200, b'{"data": [', {}),
}
