"""What credit does at each kind of operation; a table of rules for each propagation method."""
