"""The offline job: a catalogue becomes a snapshot."""
