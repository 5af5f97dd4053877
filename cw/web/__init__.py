"""`cw top --web`: the same in a browser, behind a door of its own."""
