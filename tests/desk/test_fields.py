"""Values on the console's pages."""

from __future__ import annotations

from billhook.rules.book.customer import Address
from services.desk.console.fields import plainly


def test_a_value_reads_as_people_write_it() -> None:
    at = Address(line1="12 St James Square", city="London", postal_code="SW1Y 4JH", country="GB")
    assert plainly(at) == "12 St James Square, London, SW1Y 4JH, GB"
    assert plainly({"plan": "pro", "seats": 3}) == "plan: pro, seats: 3"
    assert plainly({"<b>": "<i>"}) == "&lt;b&gt;: &lt;i&gt;"
    assert plainly({"a": {"b": 1}}) == "{&#34;a&#34;:{&#34;b&#34;:1}}", "as deep as it is"
