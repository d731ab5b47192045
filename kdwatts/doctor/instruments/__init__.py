"""Whether the meters are right: counters beside known loads and integrals of power."""
