"""What Schemathesis checks besides: no answer shows a secret, but the one that makes it."""

import re

import schemathesis

KEY = r"[spr]k_(live|test)_[1-9A-HJ-NP-Za-km-z]{44}[0-9A-Za-z]{6}"
SECRET = re.compile(KEY + r"|kga_[0-9a-f]{64}|kgat_[0-9A-Za-z]{43}")
MAKERS = {"keys.create", "keys.rotate", "tokens.create"}


@schemathesis.check
def no_secret_is_shown(ctx, response, case):
    operation = case.operation.definition.raw.get("operationId")
    if response.status_code == 201 and operation in MAKERS:
        return
    shown = f"{response.headers} {response.text}"
    # The match itself is not printed.
    assert not SECRET.search(shown), f"{operation} shows a secret in an answer {response.status_code}"
