"""Hard parameter sharing: one encoder for all tasks, one head each (Caruana 1997; survey 2.1)."""

from mtlcli.architectures.base import Architecture, ArchitectureFacts, Hidden, Inputs


class HardSharing(Architecture):
    """Every task reads the same encoder; nothing but the heads is a task's own."""

    def __init__(self, facts: ArchitectureFacts) -> None:
        super().__init__()
        self.encoder = facts.encoder

    def forward(self, task: int, inputs: Inputs) -> Hidden:
        """The encoder's hidden states, the same for every task."""
        chosen = {"inputs_embeds": inputs.embeddings} if inputs.embeddings is not None else {"input_ids": inputs.tokens}
        if inputs.types is not None:
            chosen["token_type_ids"] = inputs.types
        found = self.encoder(**chosen, attention_mask=inputs.mask, output_hidden_states=inputs.all_layers)
        return Hidden(found.last_hidden_state, tuple(found.hidden_states or ()) if inputs.all_layers else ())
