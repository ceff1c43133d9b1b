"""One file per paper: how an edit takes from the source through attention."""
