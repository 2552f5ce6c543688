"""Operations: everything long-running. Durable, resumable, undone when it can't be finished."""
