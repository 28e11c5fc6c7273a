"""The command line, `fashionbert`: `app` has the list of commands, each a module here."""
