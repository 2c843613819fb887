"""From a dataset in PASCAL VOC's layout to proxy labels and their evaluation, one module for each command."""
