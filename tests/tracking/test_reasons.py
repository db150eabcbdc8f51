"""Why a store fails, in a few words."""

import pytest
from mlflow.exceptions import MlflowException

from adapad_ray.tracking.reasons import reason_of

POOL = "HTTPConnectionPool(host='127.0.0.1', port=5000)"
REQUEST = f"API request to http://127.0.0.1:5000/api failed with exception {POOL}: Max retries exceeded with url: /api"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (f"{REQUEST} (Caused by NewConnectionError('<x>: [Errno 111] Connection refused'))", "Connection refused"),
        (
            f"{REQUEST} (Caused by ResponseError('too many 503 error responses'))",
            "it answers HTTP 503 Service Unavailable",
        ),
        (f"{POOL}: Read timed out. (read timeout=10)", "it does not answer in time"),
        (
            f"{REQUEST} (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate "
            "verify failed: self-signed certificate (_ssl.c:1006)')))",
            "self-signed certificate",
        ),
        ("API request failed with error code 599 != 200. Response body: '<p>error code 404'", "it answers HTTP 599"),
        ("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]", "database or disk is full"),
        ("cannot log in at postgresql://bob:secret@host/x", "cannot log in at postgresql://host/x"),
        ("", "MlflowException"),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_the_reason_is_what_a_reader_can_act_on(message, reason):
    found = reason_of(MlflowException(message))
    assert reason in found and "\n" not in found and len(found) <= 200


def test_an_error_of_the_system_is_its_own_reason():
    assert reason_of(OSError(28, "No space left on device", "/x/mlflow.db")) == "No space left on device"
