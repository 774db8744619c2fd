"""The console: a member's own state on pages for a browser, for the people who decide and do not live in terminals."""
