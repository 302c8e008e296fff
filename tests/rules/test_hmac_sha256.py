"""Our HMAC is the one of RFC 2104, for every key and however what is signed is cut."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.hmac_sha256 import Hmac


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), max_size=3))
def test_it_is_the_standard_librarys(key: bytes, parts: list[bytes]) -> None:
    keyed = Hmac(key)
    for _ in range(2):  # it is used again and again
        assert keyed.digest(*parts) == hmac.digest(key, b"".join(parts), "sha256")
