"""What two or more of the parts need: settings, tables, job states, storage, queue, webhooks, imaging."""
