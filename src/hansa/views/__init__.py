"""What people see of a model, a run and a table: the same numbers as tables, as pictures, as JSON and on a page."""
