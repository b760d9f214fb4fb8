//! Templates in the manner of several families of models, each with the special tokens that it writes.

use crate::vocabulary::made_up::{CONTROL, MadeUp, USER_DEFINED};

/// A family.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) control: &'static [&'static str],
    pub(super) user_defined: &'static [&'static str],
    pub(super) template: &'static str,
    pub(super) spm: bool,
}

impl Family {
    pub(super) fn made_up(&self) -> MadeUp {
        let plain = if self.spm {
            MadeUp::spm()
        } else {
            MadeUp::bpe("qwen2")
        };
        plain
            .with(CONTROL, self.control)
            .with(USER_DEFINED, self.user_defined)
            .template(self.template)
    }

    /// Every special token.
    pub(super) fn marks(&self) -> Vec<&'static str> {
        let marks = self.control.iter().chain(self.user_defined);
        marks.copied().collect()
    }
}

pub(super) const FAMILIES: [Family; 8] = [
    Family {
        name: "chatml",
        control: &["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
        user_defined: &[],
        template: "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                   message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
                   {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        spm: false,
    },
    Family {
        name: "llama 3",
        control: &[
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|python_tag|>",
        ],
        user_defined: &[],
        template: "<|begin_of_text|>{% if tools %}<|start_header_id|>system<|end_header_id|>\n\n\
                   {% for tool in tools %}{{ tool | tojson(indent=4) }}\n{% endfor %}<|eot_id|>{% endif %}\
                   {% for message in messages %}\
                   {{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}\
                   {% if message.tool_calls %}{% set call = message.tool_calls[0].function %}\
                   {{ '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{ call.arguments | tojson }}\
                   {{ '}<|eot_id|>' }}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}\
                   {% endfor %}{% if add_generation_prompt %}\
                   {{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        spm: false,
    },
    Family {
        name: "gemma",
        control: &["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
        user_defined: &["<h1>", "</h1>", "[multimodal]"],
        template: "{{ '<bos>' }}{% for message in messages %}\
                   {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
                   {{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}\
                   {% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        spm: true,
    },
    Family {
        name: "mistral",
        control: &[
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ],
        user_defined: &[],
        template: "<s>{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}\
                   {% for message in messages %}{% if message.role in ['user', 'system'] %}\
                   {{ '[INST]' ~ message.content ~ '[/INST]' }}{% elif message.role == 'tool' %}\
                   {{ '[TOOL_RESULTS]{\"content\": ' ~ message.content | tojson ~ ', \"call_id\": \"' ~ \
                   message.tool_call_id ~ '\"}[/TOOL_RESULTS]' }}{% elif message.tool_calls %}\
                   {{ '[TOOL_CALLS]' }}{% for call in message.tool_calls %}\
                   {{ call.function.name ~ call.function.arguments | tojson }}{% endfor %}{{ '</s>' }}\
                   {% else %}{{ ' ' ~ message.content ~ '</s>' }}{% endif %}{% endfor %}",
        spm: true,
    },
    Family {
        name: "qwen 3",
        control: &["<|im_start|>", "<|im_end|>", "<|endoftext|>"],
        user_defined: &[
            "<tool_call>",
            "</tool_call>",
            "<tool_response>",
            "</tool_response>",
            "<think>",
            "</think>",
        ],
        template: "{% if tools %}{{ '<|im_start|>system\n# Tools\n<tools>' }}{% for tool in tools %}\
                   {{ '\n' }}{{ tool | tojson }}{% endfor %}{{ '\n</tools>\nWrite <tool_call></tool_call>\
                   <|im_end|>\n' }}{% endif %}{% set ns = namespace(last=0) %}\
                   {% for message in messages[::-1] %}{% if message.role == 'user' and not \
                   (message.content.startswith('<tool_response>') and \
                   message.content.endswith('</tool_response>')) %}\
                   {% set ns.last = messages | length - loop.index %}{% break %}{% endif %}{% endfor %}\
                   {% for message in messages %}{% if message.role == 'tool' %}\
                   {{ '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}\
                   {% elif message.role == 'assistant' %}{% set content = message.content %}\
                   {% set reasoning = '' %}{% if message.reasoning_content is string %}\
                   {% set reasoning = message.reasoning_content %}{% elif '</think>' in content %}\
                   {% set reasoning = content.split('</think>')[0].split('<think>')[-1] %}\
                   {% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}\
                   {{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last and reasoning %}\
                   {{ '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' }}{% endif %}{{ content }}\
                   {% for call in message.tool_calls or [] %}{{ '\n<tool_call>\n{\"name\": \"' + \
                   call.function.name + '\", \"arguments\": ' }}{{ call.function.arguments | tojson }}\
                   {{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% else %}\
                   {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}\
                   {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        spm: false,
    },
    Family {
        name: "deepseek",
        control: &["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"],
        user_defined: &[
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁outputs▁begin｜>",
            "<｜tool▁outputs▁end｜>",
            "<think>",
            "</think>",
        ],
        template: "{{ '<｜begin▁of▁sentence｜>' }}{% for message in messages %}\
                   {% if message.role == 'system' %}{{ message.content }}{% elif message.role == 'user' %}\
                   {{ '<｜User｜>' + message.content }}{% elif message.role == 'tool' %}\
                   {{ '<｜tool▁outputs▁begin｜>' + message.content + '<｜tool▁outputs▁end｜>' }}\
                   {% elif message.tool_calls %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}\
                   {% for call in message.tool_calls %}{{ '<｜tool▁call▁begin｜>' + call.type + \
                   '<｜tool▁sep｜>' + call.function.name + '\n' }}{{ call.function.arguments | tojson }}\
                   {{ '<｜tool▁call▁end｜>' }}{% endfor %}{{ '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}\
                   {% else %}{% set content = message.content %}{% if '</think>' in content %}\
                   {% set content = content.split('</think>')[-1] %}{% endif %}\
                   {{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}\
                   {% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        spm: false,
    },
    Family {
        name: "phi 3",
        control: &[
            "<|user|>",
            "<|assistant|>",
            "<|system|>",
            "<|tool|>",
            "<|end|>",
            "<|endoftext|>",
        ],
        user_defined: &[],
        template: "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + \
                   '<|end|>\n' }}{% if message.name %}{{ '<|' ~ message.name ~ '|>' }}{% endif %}\
                   {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        spm: true,
    },
    Family {
        name: "harmony",
        control: &[
            "<|start|>",
            "<|message|>",
            "<|channel|>",
            "<|end|>",
            "<|call|>",
            "<|return|>",
            "<|constrain|>",
        ],
        user_defined: &[],
        template: "{% macro shape(parameters) %}{% for name, inner in parameters.properties | items %}\
                   {{ name ~ ': ' ~ (inner.type or 'any') ~ ',' }}{% if inner.description %}\
                   {{ ' // ' ~ inner.description }}{% endif %}{{ '\n' }}{% endfor %}{% endmacro %}\
                   {{ '<|start|>system<|message|>Today is ' ~ strftime_now('%Y-%m-%d') ~ '<|end|>' }}\
                   {% if tools %}{{ '<|start|>developer<|message|># Tools\n' }}{% for tool in tools %}\
                   {{ '// ' ~ (tool.function.description or '') ~ '\ntype ' ~ tool.function.name ~ ' = (' ~ \
                   shape(tool.function.parameters) ~ ')\n' }}{% endfor %}{{ '<|end|>' }}{% endif %}\
                   {% for message in messages %}{% if message.role == 'tool' %}\
                   {{ '<|start|>functions.' ~ message.name ~ ' to=assistant<|channel|>commentary<|message|>' ~ \
                   message.content | tojson ~ '<|end|>' }}{% elif message.tool_calls %}\
                   {% for call in message.tool_calls %}{{ '<|start|>assistant to=functions.' ~ \
                   call.function.name ~ '<|channel|>commentary <|constrain|>json<|message|>' ~ \
                   call.function.arguments | tojson ~ '<|call|>' }}{% endfor %}\
                   {% elif message.role == 'assistant' %}\
                   {{ '<|start|>assistant<|channel|>final<|message|>' ~ message.content ~ '<|end|>' }}\
                   {% else %}{{ '<|start|>' ~ message.role ~ '<|message|>' ~ message.content ~ '<|end|>' }}\
                   {% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        spm: false,
    },
];
