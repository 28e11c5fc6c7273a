"""The online part: recall, rerank, REST, the command line and the page."""
