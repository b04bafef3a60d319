"""Jobs: recordings that are stored, transcribed when there is room, and fetched later."""
