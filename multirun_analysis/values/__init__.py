"""Tables as rows, numbers with units, files and folders: what every other room reads or writes."""
