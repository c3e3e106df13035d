"""(Machine, Trace, Policy) -> Plan -> Result: every timing rule, once."""
