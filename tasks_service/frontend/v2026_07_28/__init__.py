"""Revision 2026-07-28: requests that stand alone, with the tasks extension."""
