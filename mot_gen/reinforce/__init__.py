"""Learning from rewards: a model samples, its samples are rewarded or compared, and it learns from what did better.

`hooks.reinforced` gives training the step and the page of a recipe with a section `reinforce`; docs/reinforce.md shows
how to use it. The parts, in the order of a step:

    prompts     what is asked, from the recipe's data
    rollouts    groups of samples of each prompt
    rewards     what a sample is worth, by name
    advantages  how much better a sample is than its group
    documents   samples as batches, and which of their tokens were choices; actions and pairs are made of them
    grpo, flow_grpo, unigrpo, moe_grpo, nft, dpo    the losses, one file each
    steps, nft_steps, dpo_steps     one step of training, from prompts to the optimizer
    report      the page of a run: what was gained, beside what it cost
"""
