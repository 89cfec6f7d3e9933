"""From a checked Request to the SequenceState of one of its samples."""

from __future__ import annotations

from ..errors import InvalidRequestError
from ..folder.model_files import SpecialIds
from ..options.precedence import NOT_SLIDING
from ..params import SamplingParams
from ..planning.audit import Audit
from ..planning.caches import CACHES
from ..planning.canvas import Canvas
from ..planning.constraint import Constraint
from ..planning.decoders import decoder_of
from ..planning.plan import SamplingRule, Span
from ..planning.sequence import BorderRule, SequenceState
from ..planning.sliding import SlidingCanvas
from ..planning.visibility import Visibility
from .requests import Request


def make_sequence(
    request: Request, params: SamplingParams, special: SpecialIds, *, seed: int, visibility: Visibility
) -> SequenceState:
    """The sequence of one sample of a checked request."""
    template, start = request.template, len(request.prompt_token_ids)
    is_infill = template is not None
    # The published loop lets the mask id win and leftover masks of earlier blocks compete; an infill fills all holes.
    as_published = params.preset == "reference" and not is_infill
    alone = [span for span, _ in request.grammars]
    if params.block_order not in NOT_SLIDING:
        response = [special.mask] * params.gen_length if template is None else list(template.tokens)
        for place, token in request.pinned:
            response[place] = token
        tokens = [*request.prompt_token_ids, *response]
        holes = [position for position, token in enumerate(tokens) if token == special.mask and position >= start]
        canvas: Canvas = SlidingCanvas(
            tokens,
            mask_id=special.mask,
            span=Span(start, len(tokens)) if template is None else Span(holes[0], holes[-1] + 1),
            block_length=params.block_length,
            is_greedy=params.block_order == "sliding_greedy",
            visibility=visibility,
        )
    elif template is not None:
        tokens = [*request.prompt_token_ids, *template.tokens]
        canvas = Canvas.for_infill(
            tokens, mask_id=special.mask, block_length=params.block_length, alone=alone, visibility=visibility
        )
    else:
        canvas = Canvas.for_generation(
            request.prompt_token_ids,
            params.gen_length,
            mask_id=special.mask,
            block_length=params.block_length,
            pinned=dict(request.pinned),
            alone=alone,
            visibility=visibility,
            window=None if request.pinned else params.suffix_window,
        )
    # Where an end token ends the response: nowhere in a closed template.
    end_from = start if template is None else None if template.open_from is None else start + template.open_from
    ends = special.ordered_ends
    unconfident = (*ends, -1, -1)[:2]  # the compiled loop takes two
    suppressed = special.eos if params.logits_eos_inf and special.eos is not None else -1
    border = None
    if params.adablock is not None and params.adablock_token is not None:
        if visibility.block_length is not None:
            raise InvalidRequestError(
                f"adablock: expected a model of full attention, got one whose attention has blocks of "
                f"{visibility.block_length}",
                param="adablock",
            )
        border = BorderRule(params.adablock_token, params.adablock, len(canvas.span) // 4)
    return SequenceState(
        request_id=request.request_id,
        canvas=canvas,
        cache=CACHES[params.cache](),
        decoder=decoder_of(params),
        sampling=SamplingRule(
            mask_id=special.mask,
            score=params.remasking,
            temperature=params.temperature,
            guidance_scale=params.cfg_scale,
            seed=seed,
            suppressed_token=suppressed,
            unconfident_tokens=(unconfident[0], unconfident[1]) if params.confidence_eos_eot_inf else (-1, -1),
            propose_mask=as_published,
            num_alternatives=params.logprobs or 0,
        ),
        commit_start=0 if as_published else None,
        end_tokens=special.ends if params.eos_early_stop and end_from is not None else frozenset(),
        end_from=end_from or 0,
        end_fill=ends[0] if ends else -1,
        constraints={
            span.start: Constraint(
                grammar,
                span,
                mask_id=special.mask,
                ends=special.ends - {suppressed},
                fill=ends[0] if ends else -1,
                threshold=params.threshold,
                param="segments" if is_infill else "choice" if params.choice else "regex",
            )
            for span, grammar in request.grammars
        },
        by_confidence=params.block_order == "confidence",
        border=border,
        audit=Audit(params.audit, params.error_budget, visibility) if params.audit else None,
    )
