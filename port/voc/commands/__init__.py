"""The options of the commands for datasets; what they do is loaded when the work starts."""
