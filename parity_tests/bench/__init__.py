"""What the port costs beside other engines, on the machine it is run on: `seenet bench`."""
