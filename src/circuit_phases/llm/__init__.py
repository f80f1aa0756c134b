"""The circuits in language models: few-shot sentiment prompts (paper, Sec. 6), accuracy, and cut attention."""
