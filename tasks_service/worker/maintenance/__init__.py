"""What keeps the store in order while nobody asks for it.

Reads see every deadline and expiry at its moment, whether or not anybody has written it down; what is here
makes it durable, tells those who wait, and frees the memory:

    schedule     what beat asks for, and how often; when beat counts as gone
    beat_tasks   the four Celery tasks that beat sends
    expire       removes tasks whose time is over
    reap         takes tasks from lost workers, ends what is past its deadline, grants free slots
    resend       sends messages that have come due, and again those that seem lost
    waits        says in a task's status message what it waits for
    audit        compares records with their indexes, and reports
    thread       what every worker process does by itself, with beat and without
    settling     how one task after another is moved, within a time

Every step is idempotent and each task is one transaction: two processes at once do no harm.
"""
