"""Figures of speech language models: do replies fit the tone of the voice, and what do people say of them?"""
