"""Names of the columns in OpenAI's and Anthropic's usage and cost exports, older ones included.

From the consoles' CSV files, the types of the openai SDK (`openai.types.admin.organization`) and
Anthropic's reference of the Usage and Cost API. Of several names, the first that a row has counts.
"""

DAY = (
    "usage_date_utc", "start_time_iso", "start_time", "starting_at", "usage_date", "date", "day",
    "aggregation_timestamp", "timestamp",
)  # fmt: skip
END = ("end_time_iso", "end_time", "ending_at")
MODEL = ("model_version", "model", "snapshot_id", "snapshot", "model_name")
REQUESTS = ("num_model_requests", "n_requests", "num_requests", "requests")

# All input at OpenAI; at Anthropic what was neither read from nor written to its cache.
INPUT = ("input_tokens", "n_context_tokens_total", "prompt_tokens")
UNCACHED = (
    "usage_input_tokens_no_cache", "uncached_input_tokens", "input_uncached_tokens",
    "n_non_cached_context_tokens_total",
)  # fmt: skip
READ = (
    "usage_input_tokens_cache_read", "cache_read_input_tokens", "input_cached_tokens",
    "n_cached_context_tokens_total",
)  # fmt: skip
WRITE = (
    "usage_input_tokens_cache_write_5m", "ephemeral_5m_input_tokens",
    "cache_creation_ephemeral_5m_input_tokens", "input_cache_write_30m_tokens",
)  # fmt: skip
WRITE_1H = (
    "usage_input_tokens_cache_write_1h", "ephemeral_1h_input_tokens",
    "cache_creation_ephemeral_1h_input_tokens",
)  # fmt: skip
WRITE_12H = ("input_cache_write_12h_tokens",)
# Of every life: what is left of it beside the others was written for the shortest.
WRITE_ALL = (
    "input_cache_write_tokens", "usage_input_tokens_cache_write", "cache_creation_input_tokens",
    "cache_write_tokens",
)  # fmt: skip
INPUT_TEXT = ("input_text_tokens",)
INPUT_AUDIO = ("input_audio_tokens",)
INPUT_IMAGE = ("input_image_tokens",)
OUTPUT = (
    "usage_output_tokens", "output_tokens", "n_generated_tokens_total", "completion_tokens",
)  # fmt: skip
OUTPUT_TEXT = ("output_text_tokens",)
OUTPUT_AUDIO = ("output_audio_tokens",)
OUTPUT_IMAGE = ("output_image_tokens",)

DOLLARS = ("cost_usd", "amount_value", "amount_usd", "cost_in_usd", "cost", "amount")
CURRENCY = ("amount_currency", "currency")
ITEM = ("line_item", "description")

ANTHROPIC = frozenset(
    {"usage_date_utc", "starting_at", "uncached_input_tokens", "cache_creation_input_tokens"}
)
"""Columns that OpenAI's exports do not have."""

READ_HERE = frozenset(
    {
        *DAY, *END, *MODEL, *REQUESTS, *INPUT, *UNCACHED, *READ, *WRITE, *WRITE_1H, *WRITE_12H,
        *WRITE_ALL, *INPUT_TEXT, *INPUT_AUDIO, *INPUT_IMAGE, *OUTPUT, *OUTPUT_TEXT, *OUTPUT_AUDIO,
        *OUTPUT_IMAGE, *DOLLARS, *CURRENCY, *ITEM,
    }
)  # fmt: skip
KNOWN = READ_HERE | frozenset(
    """
    object project_id project_name user_id user_email email account_id service_account_id
    api_key_id api_key api_key_name api_key_redacted api_key_type api_key_status api_source
    workspace workspace_id organization_id organization_name usage_type request_type operation
    context_window batch service_tier inference_geo speed cost_type token_type server_tool_use
    web_search_count list_price list_price_usd quantity quantity_unit total_tokens
    input_cached_text_tokens input_cached_audio_tokens input_cached_image_tokens
    """.split()
)
"""Columns that are read, or are known to say nothing more of tokens and dollars."""
