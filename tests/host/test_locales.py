"""The English texts of the web interface are what the nodes say."""

import json

from tools.locales import english, path_of


def test_the_english_texts_are_those_of_the_nodes(pack):
    """Run tools/locales.py after a text has changed."""
    assert json.loads(path_of("en").read_text("utf-8")) == english()
