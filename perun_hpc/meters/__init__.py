"""Meters outside the node: its management controller over Redfish, the outlets of a rack's PDU over SNMPv3."""
