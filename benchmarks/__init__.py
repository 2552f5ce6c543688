"""One program per claim: ``make bench NAME=bind``. Each prints one JSON document on standard output."""
